CREATE TABLE item (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    added timestamptz NOT NULL DEFAULT now()
);
INSERT INTO item (name) VALUES ('a first thing');
