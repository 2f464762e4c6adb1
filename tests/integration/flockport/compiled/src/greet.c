#include <stdio.h>
int main(void) { return puts("good day") < 0; }
