"""The processes of Acestage: stages, orchestrator, gateway, planner, warmup; `runtime` is what they share."""
