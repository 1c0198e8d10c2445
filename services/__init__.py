"""The gRPC services: one folder for each stage, the orchestrator, and the runtime that they share."""
