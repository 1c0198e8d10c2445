"""The orchestrator: the queue of jobs, their way through the stages, and the ledger of leases."""
