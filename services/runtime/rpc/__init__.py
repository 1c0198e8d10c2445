"""gRPC as all our servers and channels speak it: options, errors, key, health, messages of every stage."""
