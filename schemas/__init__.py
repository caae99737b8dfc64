"""What passes between the stages: Arrow schemas, the ledger's vocabulary, conversations, errors."""
