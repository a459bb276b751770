"""Pictures of a run: how images emerged, maps, attacks, evidence, sheets of many, animations, and its report."""
