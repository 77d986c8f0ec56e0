"""Many assets: a journal, plans of thousands, workers, budgets, failures by class. It knows no stage, no pipeline."""
