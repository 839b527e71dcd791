"""Where bytes enter and leave. Thin: one file descriptor each, no policy."""
