"""One command per task: train a compact ANN, search its spiking versions, report."""
