"""What every process of ours needs, whatever it does: flags, logs, folders, a look at itself and its CPU."""
