//! Numbers the trajectories of a foreign dataset and writes them as shards.
