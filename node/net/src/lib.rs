//! The virtual network: names, addresses, service table, policy decisions. No wasmtime, no real sockets.
// owner: agent
