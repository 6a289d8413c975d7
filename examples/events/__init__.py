"""Event-driven classification: N-MNIST."""
