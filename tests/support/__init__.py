"""What several tests need: tiny models, drawn runs, a loopback Hub, launchers."""
