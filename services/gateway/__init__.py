"""The front doors, REST and a web page: clients of the orchestrator that share one book of jobs."""
