//! What each kind means: defaults, preparation, validation and table cells, one module per kind.
// owner: objects-rules
