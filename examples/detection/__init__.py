"""Object detection: blood cells."""
