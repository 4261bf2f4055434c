"""Export a model to graphs: the encoder once, each adapter and fusion with head apart, or all as one."""
