"""What watches a run: Lightning callbacks that write observations and results to files, to W&B and to the terminal."""
