"""Read, compare, tabulate and plot the runs of downstream tasks."""
