"""Sub-commands of `casemate` that the compiler provides."""
