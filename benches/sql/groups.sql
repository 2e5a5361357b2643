SELECT trajectory_id % 64 AS bucket, length, labelled, count(*) AS n, avg("return") AS mean_return, max("return") AS best, sum(length) AS steps
FROM trajectories
GROUP BY trajectory_id % 64, length, labelled
ORDER BY bucket, length, labelled
