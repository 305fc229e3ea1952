"""API keys: over HTTP for a tenant's admins, on the command line for the operator, and the embedded server's own."""
