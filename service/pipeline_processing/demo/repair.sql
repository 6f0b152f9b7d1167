-- Enters the amount from the receipt.
UPDATE records.payments SET amount = '1250.00' WHERE agency_id = 111 AND amount = 'n/a';
