"""The appliance: gRPC front, policy, filters, engine, workers and store."""
