//! Templates as models have them.
