//go:build unix && !linux && !solaris

package listen

func explainInUse(string) string { return "" }
