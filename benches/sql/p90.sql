WITH bar AS (
    SELECT length, percentile_cont(0.9) WITHIN GROUP (ORDER BY "return") AS p90 FROM trajectories GROUP BY length
)
SELECT t.length, count(*) AS n, sum(t.length) AS steps, avg(t."return") AS mean_return, min(bar.p90) AS p90
FROM trajectories t JOIN bar ON t.length = bar.length
WHERE t."return" >= bar.p90
GROUP BY t.length
ORDER BY t.length
