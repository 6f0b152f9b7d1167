-- Puts in the amount that stands on the receipt.
UPDATE records.payments SET amount = '1250.00' WHERE agency_id = 111 AND amount = 'n/a';
