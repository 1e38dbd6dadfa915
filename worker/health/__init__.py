"""How a run is doing, for Prometheus, for probes and for people: metrics, health, cameras."""
