"""Reports on runs of tasks: records, comparison, tables and charts."""
