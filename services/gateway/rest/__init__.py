"""The REST interface: that of upstream ACE-Step, and `/v1/jobs` beyond it."""
