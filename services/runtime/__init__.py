"""What every stage shares: server, lease holder, worker processes, devices."""
