"""The ledger of leases on devices."""
