"""What outlives a process: tables, queries, blobs, settings. A *model* here is a table; the neural network is always `lm`."""
