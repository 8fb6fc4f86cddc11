"""The engine: projectors, the fold, full projections. It knows no driver."""
