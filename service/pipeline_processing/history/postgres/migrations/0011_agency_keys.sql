-- The key of an agency that isn't an integer. `agency_id` is then a number that stands for it: negative, unless the key
-- is an integer in decimal digits.
ALTER TABLE runs ADD COLUMN agency_key text;
