/* Python, linked with ThreadSanitizer's runtime: preloading it into another Python crashes. */
#include <Python.h>

int main(int argc, char **argv)
{
	return Py_BytesMain(argc, argv);
}
