-- The three tables that are exported, and how many rows each has.
SELECT 'permits' AS name, count(*) AS rows FROM records.permits
UNION ALL
SELECT 'inspections', count(*) FROM records.inspections
UNION ALL
SELECT 'payments', count(*) FROM records.payments
ORDER BY name DESC;
