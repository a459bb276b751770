"""What is shown of the outcomes of each method: tables, captions, figures and evidence, one method per file."""
