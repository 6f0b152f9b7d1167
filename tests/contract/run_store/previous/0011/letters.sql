-- Dead letters that Kafka permanently refuses.

-- name: keep_letter
-- Store a letter, unless its request has one already.
INSERT INTO dead_letters (reason, topic, partition, "offset", timestamp_ms, letters_topic, key, value, header_names,
                          header_values)
VALUES (:reason, :topic, :partition, :offset, :timestamp_ms, :letters_topic, :key, :value, :header_names,
        :header_values)
ON CONFLICT (topic, partition, "offset", timestamp_ms) DO NOTHING;

-- name: kept_letters
-- The newest letters with a number below `before`.
SELECT number, put_aside_at, letters_topic, key, value, header_names, header_values
FROM dead_letters
WHERE number < :before AND (:since::timestamptz IS NULL OR put_aside_at >= :since)
ORDER BY number DESC
LIMIT :limit;

-- name: numbered_letters
-- Letters by their numbers.
SELECT number, put_aside_at, letters_topic, key, value, header_names, header_values
FROM dead_letters
WHERE number = ANY (:numbers::bigint[]);
