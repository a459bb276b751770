"""Pictures of a run: the evolution of its images, sheets of many, and animations."""
