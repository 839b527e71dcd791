"""One small file per verb group. Everything heavy is imported inside the verb that needs it."""
