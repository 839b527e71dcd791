"""How a link to the peer comes about and comes back: the policy above edge/, one file per transport."""
