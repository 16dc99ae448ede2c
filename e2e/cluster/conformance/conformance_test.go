// The Gateway API's own conformance suite, unchanged: `cargo xtask conformance` runs it.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
