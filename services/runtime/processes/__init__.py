"""What any process of ours may need, whatever it does: flags, logs, waits, folders, memory, CPUs, its end."""
