"""What a run leaves for people and tools: results, exports, report, reviews, comparisons, terminal tables."""
