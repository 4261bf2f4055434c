"""Train several adapters in one process, with results identical to separate runs."""
