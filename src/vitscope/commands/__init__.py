"""The commands of `vitscope`, by what they are about: parse, call one function, print."""
