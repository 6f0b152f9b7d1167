-- The payments of agency 111 whose amount isn't a number.
SELECT id, payee, amount, paid_at::date AS paid_on FROM records.payments
WHERE agency_id = 111 AND NOT pg_input_is_valid(amount, 'numeric') ORDER BY id;
