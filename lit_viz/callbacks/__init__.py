"""Lightning callbacks: files, checkpoints, progress and results in memory."""
