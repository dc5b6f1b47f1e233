"""What a run shows of itself: summary, report, figures, comparisons, published tables."""
