"""Run folders: their files, their reader and writer, and the outcomes of a run."""
