//! The owner task of a pod, with a fake link and fake guests.
